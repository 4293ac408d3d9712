"""To see inside: reports of this process, the doctor, and top."""
