"""The plots of a report, one file each; a plot is drawn only where its data are there."""
