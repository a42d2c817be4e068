"""A page that needs nothing but itself: markup, style sheet, and figures drawn into it. Reports are made of these."""
