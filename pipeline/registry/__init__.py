"""Models and genotypes of an archive, and which of them a scene gets."""
