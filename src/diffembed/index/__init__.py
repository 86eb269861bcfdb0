"""Search: exact nearest neighbours, BM25 and their fusion, over arrays or an index on disk. Knows no model."""
