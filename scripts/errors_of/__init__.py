"""What the integer operators are tried on, and what they should give: float64 results, and their stated bounds."""
