"""Records: the rules of a write, the statements that read and write them, what was written when."""
