"""What the connector's gradients and routers say of its tasks (paper section 2 and Fig. 4)."""
