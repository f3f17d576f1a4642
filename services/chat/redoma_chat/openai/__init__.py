"""OpenAI's REST shapes: requests in, responses and errors out."""
