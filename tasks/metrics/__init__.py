"""The metrics of both protocols, each as sufficient statistics and a function of their sum."""
