"""What is installed here, and whether it works: the facts of `omniq info` and the checks of `omniq doctor`."""
