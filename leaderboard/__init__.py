"""Many runs side by side: tables that a reviewer believes."""
