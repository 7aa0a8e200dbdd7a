"""TFDS builders: from folders of images to sharded TFRecords with a manifest."""
