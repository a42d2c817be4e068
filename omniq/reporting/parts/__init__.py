"""The parts of the page of a run, one file each; a part is '' where the record has nothing for it."""
