"""What a person types: one module per noun, each turning arguments into calls and answers into text."""
