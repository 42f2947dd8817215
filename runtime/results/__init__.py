"""What was answered: records, the file of results, and what becomes of a whole LIST."""
