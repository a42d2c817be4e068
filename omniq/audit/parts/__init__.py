"""The sections of the HTML report, and what they are built from."""
