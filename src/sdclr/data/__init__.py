"""Where images come from, how a long tail is drawn, how two views are made and loaded."""
