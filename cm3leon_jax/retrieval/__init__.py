"""Finding documents: CLIP encoder, ScaNN index, document selection and store."""
