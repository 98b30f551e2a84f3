"""The messages of Core ML's model format, each a `.proto` with its compiled descriptor (`make schema`)."""
