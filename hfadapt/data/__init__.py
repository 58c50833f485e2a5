"""From what a recipe's `data` section names to checked, split rows under the task's roles."""
