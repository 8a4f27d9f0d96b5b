"""Pages of records: listings, searches by filter and by words, and the documents that these read."""
