"""The report of a quantisation run: its facts as one record, and the page that is made from the record alone."""
