"""Any images, scored and ranked with a trained model: what the method is for, once training is over."""
