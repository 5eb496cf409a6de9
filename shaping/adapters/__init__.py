"""Production trainers: each module puts a shape's token rewards where one trainer computes its advantages."""
