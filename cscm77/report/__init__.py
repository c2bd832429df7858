"""What a person looks at: figures, sliders and tables."""
