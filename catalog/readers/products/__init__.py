"""Product profiles, one module for each product: which files it has, what they state, how its masks become flags."""
