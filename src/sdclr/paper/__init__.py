"""The paper's tables and figures: their runs, the paper's numbers, and our numbers."""
