"""Methods with a consolidated head: CWR, AR1, and replay of latents or generated negatives."""
