"""The one training of all learned methods: losses, objective, loop, checkpoint."""
