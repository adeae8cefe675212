"""Many pictures in one style: what is to be made, who makes it, and the manifest of what has been made."""
