"""What a run needs, what there is, and how to make the one fit into the other."""
