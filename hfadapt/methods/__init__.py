"""Ways to adapt a backbone; one method a file."""
