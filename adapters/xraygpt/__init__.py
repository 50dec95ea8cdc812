"""XrayGPT: MiniGPT-4's recipe on chest X-rays."""
