"""TFDS's own test of a builder, on every builder: features, tags, splits that share no record, reading it back."""

import os
import tempfile
from pathlib import Path
from unittest import mock

import tensorflow_datasets as tfds
import tiny_sources as sources

from tfds_builders.ai_vs_human.ai_vs_human_dataset_builder import Builder as AiVsHuman
from tfds_builders.celeb_df.celeb_df_dataset_builder import Builder as CelebDf
from tfds_builders.deepfake_and_real.deepfake_and_real_dataset_builder import Builder as DeepfakeAndReal
from tfds_builders.deepfake_faces.deepfake_faces_dataset_builder import Builder as DeepfakeFaces
from tfds_builders.dfdc_faces.dfdc_faces_dataset_builder import Builder as DfdcFaces
from tfds_builders.harmonised.harmonised_dataset_builder import Builder as Harmonised
from tfds_builders.real_fake_folder.real_fake_folder_dataset_builder import Builder as RealFakeFolder


class _Conventions:
    """What the classes below share. TFDS wants a folder of dummy data; here it is made when the class is set up."""

    make_source = staticmethod(sources.categories)

    @classmethod
    def setUpClass(cls) -> None:
        cls._folder = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = str(cls.make_source(Path(cls._folder.name)))
        cls._settings = mock.patch.dict(os.environ, {"REALSHARD_FRAMES": "2", "REALSHARD_HARMONISED_SIDE": "16"})
        cls._settings.start()
        super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls._settings.stop()
        cls._folder.cleanup()


def _built(root: Path) -> Path:
    return sources.build(RealFakeFolder, sources.categories(root / "manual"), root)


class AiVsHumanTest(_Conventions, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = AiVsHuman
    SPLITS = {"train": 64, "validation": 8, "test": 8}


class DeepfakeAndRealTest(_Conventions, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = DeepfakeAndReal
    SPLITS = {"train": 40, "validation": 12, "test": 8}
    make_source = staticmethod(sources.deepfake_and_real)


class DeepfakeFacesTest(_Conventions, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = DeepfakeFaces
    SPLITS = {"train": 24, "validation": 12, "test": 12}
    make_source = staticmethod(sources.deepfake_faces)


class DfdcFacesTest(_Conventions, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = DfdcFaces
    SPLITS = {"train": 48, "validation": 16, "test": 16}
    make_source = staticmethod(sources.dfdc_parts)


class CelebDfTest(_Conventions, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = CelebDf
    SPLITS = {"train": 24, "validation": 18, "test": 18}
    make_source = staticmethod(sources.celeb_df)


class RealFakeFolderTest(_Conventions, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = RealFakeFolder
    SPLITS = {"train": 64, "validation": 8, "test": 8}


class HarmonisedTest(_Conventions, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Harmonised
    SPLITS = {"train": 64, "validation": 8, "test": 8}
    make_source = staticmethod(_built)
