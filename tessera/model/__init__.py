"""The networks: an encoder for packed documents, its heads, and its life as a Hugging Face folder."""
