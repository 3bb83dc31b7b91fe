"""The board: work items of people and agents; assign, merge, undo, bulk, export."""
