"""One module for each library that is measured."""
