"""Every search method on every benchmark case with the same seeds and budgets, and what that says. No torch."""
