"""The meaning of a scene's numbers: readers state what each source says, one ordered table decides."""
