"""From a model and samples to an evidence table: clean pass, search, journal, signs of trouble, examples."""
