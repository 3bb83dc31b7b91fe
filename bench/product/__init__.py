"""Programs that use the product's rooms in process, through their doors, where HTTP would hide what is measured."""
