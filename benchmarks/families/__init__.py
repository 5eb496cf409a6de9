"""All families of models that the library can build tiny, held against the raw library."""
