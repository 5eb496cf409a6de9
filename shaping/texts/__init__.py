"""What of a text is whose: tokens that no text shows, and texts as another tokenizer reads them."""
