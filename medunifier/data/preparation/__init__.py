"""From the raw rows of a layout to prepared tables: report sections, filters, splits, benchmarks, rejects."""
