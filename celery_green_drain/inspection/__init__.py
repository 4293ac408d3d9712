"""To see inside: reports of this process, metrics, and the doctor."""
