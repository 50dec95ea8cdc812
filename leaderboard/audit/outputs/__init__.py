"""Did the outputs of a model repeat test references?"""
