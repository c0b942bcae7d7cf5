"""Files of results: item scores, predictions, rankings, examples for readers, plots."""
