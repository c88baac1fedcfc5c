"""The worker: runs model sessions in processes of their own and answers the inferrers over the data channel."""
