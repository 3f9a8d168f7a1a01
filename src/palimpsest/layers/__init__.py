"""Parts of networks that stand in for others while a stage trains, and leave plain modules behind."""
