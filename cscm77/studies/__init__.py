"""The long commands; the only room that may import the helper, vae and gan."""
