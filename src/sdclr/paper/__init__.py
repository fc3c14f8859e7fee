"""The paper's tables and figures: what stands behind them, its own numbers, and ours beside them."""
