"""What each shape does to the policy's gradient: how much of it is signal, bias and noise."""
