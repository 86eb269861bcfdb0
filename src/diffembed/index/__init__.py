"""Search over arrays: exact nearest neighbours, BM25 and their fusion. Knows rows and scores, no model and no file."""
