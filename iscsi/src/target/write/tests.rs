use super::*;

fn agreed() -> Parameters {
    Parameters {
        first_burst_length: 1000,
        max_burst_length: 2000,
        max_outstanding_r2t: 2,
        initial_r2t: false,
        ..Parameters::DEFAULT
    }
}

fn pdu(transfer: Option<u16>, data_sn: u32, offset: u32, length: u32, last: bool) -> DataPdu {
    DataPdu { transfer, data_sn, offset, length, last }
}

fn take(write: &mut WriteTransfer, pdu: DataPdu) -> Progress {
    write.check(pdu).unwrap();
    write.end_pdu(true)
}

#[test]
fn immediate_unsolicited_and_solicited_data() {
    let mut write = WriteTransfer::new(5500, 400, true, 0x7fff, &agreed());
    assert_eq!(write.left(), 600, "what comes unasked");
    assert_eq!(write.want(5500), Progress::More);
    assert_eq!(write.left(), 5100);
    assert_eq!(
        write.check(pdu(None, 0, 400, 500, false)),
        Err(DataError::Unsolicited),
        "immediate data first"
    );
    assert_eq!(write.end_immediate(true), Progress::More);
    assert_eq!(write.next_request(), None, "unsolicited data first");
    assert_eq!(take(&mut write, pdu(None, 0, 400, 500, false)), Progress::More);
    assert_eq!(take(&mut write, pdu(None, 1, 900, 100, true)), Progress::More);
    assert_eq!(write.left(), 4500);
    let request = |transfer, offset, length| Some(Request { transfer, offset, length });
    assert_eq!(write.next_request(), request(0x7fff, 1000, 2000));
    assert_eq!(write.next_request(), request(0, 3000, 2000));
    assert_eq!(write.next_request(), None, "MaxOutstandingR2T");
    assert_eq!(take(&mut write, pdu(Some(0x7fff), 0, 1000, 2000, true)), Progress::More);
    assert_eq!(write.next_request(), request(1, 5000, 500));
    assert_eq!(take(&mut write, pdu(Some(0), 0, 3000, 1500, false)), Progress::More);
    assert_eq!(take(&mut write, pdu(Some(0), 1, 4500, 500, true)), Progress::More);
    assert_eq!(write.left(), 500);
    assert_eq!(take(&mut write, pdu(Some(1), 0, 5000, 500, true)), Progress::Complete);
    assert_eq!(write.left(), 0);
    assert_eq!(write.check(pdu(Some(1), 0, 5000, 500, true)), Err(DataError::TransferTag));
}

#[test]
fn a_command_that_needs_less_or_nothing() {
    let mut write = WriteTransfer::new(5000, 0, false, 0, &agreed());
    assert_eq!(write.want(700), Progress::More);
    assert_eq!(write.next_request(), Some(Request { transfer: 0, offset: 0, length: 700 }));
    assert_eq!(take(&mut write, pdu(Some(0), 0, 0, 700, true)), Progress::Complete);
    let mut nothing = WriteTransfer::new(5000, 0, false, 0, &agreed());
    assert_eq!(nothing.left(), 0, "nothing is asked for yet");
    assert_eq!(nothing.want(0), Progress::Complete);
    let mut immediate = WriteTransfer::new(512, 512, false, 0, &agreed());
    assert_eq!(immediate.end_immediate(true), Progress::More);
    assert_eq!(immediate.want(9999), Progress::Complete, "never more than expected");
    let mut early = WriteTransfer::new(512, 512, false, 0, &agreed());
    assert_eq!(early.want(512), Progress::More, "the data is not there yet");
    assert_eq!(early.end_immediate(true), Progress::Complete);
    let mut announced = WriteTransfer::new(512, 512, true, 0, &agreed());
    announced.end_immediate(true);
    assert_eq!(announced.want(512), Progress::Complete, "no room for the announced data");
}

#[test]
fn every_wrong_field_is_an_error() {
    for (bad, error) in [
        (pdu(None, 0, 0, 500, false), DataError::Unsolicited),
        (pdu(Some(1), 0, 0, 500, false), DataError::TransferTag),
        (pdu(Some(0), 1, 0, 500, false), DataError::DataSn),
        (pdu(Some(0), u32::MAX, 0, 500, false), DataError::DataSn),
        (pdu(Some(0), 0, 500, 500, false), DataError::Offset),
        (pdu(Some(0), 0, 0, 2001, false), DataError::Length),
        (pdu(Some(0), 0, 0, 2001, true), DataError::Length),
        (pdu(Some(0), 0, 0, 1999, true), DataError::Length),
        (pdu(Some(0), 0, 0, 2000, false), DataError::Length),
        (pdu(Some(0), 0, 0, u32::MAX, true), DataError::Length),
    ] {
        let mut write = WriteTransfer::new(5000, 0, false, 0, &agreed());
        write.want(5000);
        write.next_request();
        assert_eq!(write.check(bad), Err(error), "{bad:?}");
    }
}

#[test]
fn repeated_and_short_sequences() {
    let begin = || WriteTransfer::new(1000, 0, true, 0, &agreed());
    assert_eq!(
        begin().check(pdu(None, 0, 0, 900, true)),
        Err(DataError::Length),
        "short of FirstBurstLength"
    );
    for (again, error) in
        [(pdu(None, 0, 0, 500, false), DataError::DataSn), (pdu(None, 1, 0, 500, true), DataError::Offset)]
    {
        let mut write = begin();
        take(&mut write, pdu(None, 0, 0, 500, false));
        assert_eq!(write.check(again), Err(error), "repeated");
    }
}

#[test]
fn a_bad_digest_fails_the_command_after_its_sequences() {
    let mut write = WriteTransfer::new(5000, 0, false, 0, &agreed());
    write.want(5000);
    write.next_request();
    write.next_request();
    write.check(pdu(Some(0), 0, 0, 2000, true)).unwrap();
    assert_eq!(write.end_pdu(false), Progress::More);
    assert_eq!(write.next_request(), None, "no further R2T");
    assert_eq!(take(&mut write, pdu(Some(1), 0, 2000, 2000, true)), Progress::Failed(DataError::Digest));
    assert!(write.is_closed());
    let mut immediate = WriteTransfer::new(100, 100, false, 0, &agreed());
    assert_eq!(immediate.end_immediate(false), Progress::Failed(DataError::Digest));
}

#[test]
fn data_in_any_order_must_fill_its_sequence() {
    let any_order = Parameters { data_pdu_in_order: false, ..agreed() };
    let begin = || {
        let mut write = WriteTransfer::new(5000, 200, true, 0, &any_order);
        write.end_immediate(true);
        write.want(5000);
        write
    };
    let mut write = begin();
    assert_eq!(take(&mut write, pdu(None, 0, 600, 400, false)), Progress::More);
    assert_eq!(write.left(), 4400);
    assert_eq!(take(&mut write, pdu(None, 1, 300, 0, false)), Progress::More, "no data is anywhere");
    assert_eq!(take(&mut write, pdu(None, 2, 200, 400, true)), Progress::More);
    for _ in 0..2 {
        assert!(write.next_request().is_some());
    }
    assert_eq!(take(&mut write, pdu(Some(0), 0, 2000, 1000, false)), Progress::More);
    assert_eq!(take(&mut write, pdu(Some(0), 1, 1000, 500, false)), Progress::More);
    assert_eq!(take(&mut write, pdu(Some(0), 2, 1500, 500, true)), Progress::More);
    assert_eq!(take(&mut write, pdu(Some(1), 0, 3000, 2000, true)), Progress::Complete);
    for (bad, error) in [
        (pdu(None, 1, 100, 100, false), DataError::Offset),
        (pdu(None, 1, 500, 200, false), DataError::Offset),
        (pdu(None, 1, 599, 1, true), DataError::Length),
        (pdu(None, 1, 200, 400, false), DataError::Length),
        (pdu(None, 1, 900, 101, false), DataError::Length),
        (pdu(None, 1, 900, u32::MAX, true), DataError::Length),
        (pdu(None, 1, 1001, 0, false), DataError::Offset),
        (pdu(None, 1, u32::MAX, 1, false), DataError::Offset),
        (pdu(None, 2, 200, 400, true), DataError::DataSn),
    ] {
        let mut write = begin();
        take(&mut write, pdu(None, 0, 600, 400, false));
        assert_eq!(write.check(bad), Err(error), "{bad:?}");
    }
}

#[test]
fn gaps_are_bounded() {
    let any_order = Parameters { data_pdu_in_order: false, ..agreed() };
    let mut write = WriteTransfer::new(1000, 0, true, 0, &any_order);
    for data_sn in 0..crate::limits::MAX_EXTENTS as u32 {
        take(&mut write, pdu(None, data_sn, 2 * data_sn + 1, 1, false));
    }
    assert_eq!(write.check(pdu(None, 128, 900, 1, false)), Err(DataError::Fragments));
}
