"""The report page (one self-contained HTML file) and the paper's tables beside our values."""
